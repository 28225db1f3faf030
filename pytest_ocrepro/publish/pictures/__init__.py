"""Pictures drawn by hand: records in, SVG text out.

Every text in them is escaped, every picture has ``role="img"`` and a title, and carries no colour of its own: the
style sheet knows light, dark and print. The records are what the tables beside the pictures show.
"""
