"""The only place that knows ike, dataplane and system: SA manager, rekey, SPIs, counters."""
