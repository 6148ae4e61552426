"""Types of the gate's inputs and results, for callers that annotate types."""

from entangle_cli.analysis.gate import Outcome, RuleResult, Scope, Verdict
from entangle_cli.analysis.ignored import Ignored
from entangle_cli.analysis.rules import Rule
from entangle_cli.analysis.sequential import Decision

__all__ = ["Decision", "Ignored", "Outcome", "Rule", "RuleResult", "Scope", "Verdict"]
