"""One module per outside system: blocking calls, explicit timeouts, no decisions."""
