"""The commands: parse, call one thing, show it, return the exit code. Nothing heavy is imported at the top."""
