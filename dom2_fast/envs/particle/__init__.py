"""The particle tasks under OMAR's rules: what they are made of, their physics, their prey."""
