"""What a gate takes and what it can come to, for callers that name the types."""

from entangle_cli.analysis.gate import Outcome, RuleResult, Scope, Verdict
from entangle_cli.analysis.ignored import Ignored
from entangle_cli.analysis.rules import Rule
from entangle_cli.analysis.sequential import Decision

__all__ = ["Decision", "Ignored", "Outcome", "Rule", "RuleResult", "Scope", "Verdict"]
