"""The asyncio daemon: opens descriptors, owns the clock, serves the control socket."""
