"""Two hosts behind two gateways in network namespaces: the demo, and the scenario tools that the interop tests share."""
