"""What may not break, made to break: `make torture`. Not part of CI; see docs/reliability.md."""
