"""The recipe of the shipped bundle ``earth``: crops of NASA's Blue Marble, and the figures measured on them."""
