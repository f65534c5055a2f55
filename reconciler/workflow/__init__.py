"""Long operations as decisions over frozen facts: pure, no I/O, no clock."""
