"""Numbers about trained encoders: retrieval, geometry, classification, and the store of embeddings.

Import the modules themselves (``from mmvicreg.evaluation.retrieval import retrieval``); this file imports
nothing, so that configurations can be read without loading torch.
"""
