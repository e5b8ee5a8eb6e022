"""How a job queues: its layout on the nodes, its batch script, and talking to the scheduler. One file per scheduler."""
