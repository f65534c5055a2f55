"""From changes to a plan: actions, order, estimates, proof, text. Pure."""
