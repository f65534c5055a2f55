"""Policies: rules in CEL that specs, plans and steps must fulfil. Pure; time is a value."""
