"""Who may do what: PAD, credentials."""
