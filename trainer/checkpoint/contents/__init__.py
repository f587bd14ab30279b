"""The tensors of a checkpoint: their files, where each part of them lies, those of others, too."""
