"""The shell's heart: observe, plan, apply. It knows the core and the ports, no concrete edge."""
