"""IPsec without kernel IPsec: ESP kernels over batches of packets, IKEv2, and the gateway between them."""

__version__ = "0.1.0"
