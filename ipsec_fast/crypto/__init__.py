"""Secrets are made, kept and wiped here: key arena, PRF and KEYMAT, key exchange, SK{} seal and open."""
