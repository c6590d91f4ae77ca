"""Text encoders as graphs: token ids → hidden states, one module an architecture.

Each module has a function ``graph`` that reads a model folder of transformers and returns what is traced. The networks
are written here, around the checkpoint's own weights and under their names, so that a graph holds the layers that are
wanted and nothing that depends on the length of the traced example; the reference that they are held against is the
model of transformers.
"""
