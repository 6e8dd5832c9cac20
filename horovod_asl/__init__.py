"""Train, score and use an American Sign Language alphabet classifier on any number of machines."""

__version__ = "0.1.0"
