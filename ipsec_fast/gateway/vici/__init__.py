"""The control socket: strongSwan's vici protocol, so that stock swanctl and every vici client drive this gateway."""

DEFAULT_SOCKET = "/run/ipsec-fast.vici"
