"""The SPD's outside in the kernel: one nftables table, a few `ip rule`s and one route per family into the TUN (RFC 4301 section 5).

`host_policy.HostPolicy` is the face; `policies` orders and layers what is loaded and knows no kernel.
"""
