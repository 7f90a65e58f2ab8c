COUNTER_NAMES: tuple[str, ...]  # of a worker, in the order of the enum in port.pxd
