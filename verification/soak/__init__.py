"""A worker, a publisher and a reader under a steady load, while their connections are cut: does anything grow?"""
