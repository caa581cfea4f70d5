"""Public weights: files of BERT, AST and ResNet-50 into our towers, and our models into files that other programs read."""
