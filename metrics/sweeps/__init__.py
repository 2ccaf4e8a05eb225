"""How does a score move with layer, gallery, k, or the best that could be learnt?"""
