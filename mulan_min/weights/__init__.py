"""Public weights: loads files of BERT, AST and ResNet-50 into our towers, and writes our models for other programs."""
