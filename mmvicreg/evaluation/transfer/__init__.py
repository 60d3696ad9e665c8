"""A run and labelled samples go in; kNN, linear-probe, zero-shot, fine-tuning and segmentation scores come out."""
