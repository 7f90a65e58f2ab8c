"""IKE without I/O: datagrams, time and answers go in; events and datagrams come out."""
