"""What figures are worth: reconstruction, codes, likelihood, generation and faithfulness to a
layout, each with the protocol that made it.
"""
