"""The wing of MMRNS: the attention, the similarities that it gives, the candidates, and the two samplers."""
