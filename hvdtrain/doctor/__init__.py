"""What this environment can do, what stands in its way, and the builder of Horovod.

TensorFlow, Keras, Horovod and mpi4py are probed in processes of their own (`probe.py`), never imported here.
"""
