"""The control socket: strongSwan's vici protocol, so that stock swanctl and every vici client drive this gateway."""
