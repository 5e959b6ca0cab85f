"""What the implementation of each kind must be able to do: a module for each area, and the `table` of all kinds.

Heavy types appear in annotations only. Plugins take these classes from `swift.api`.
"""
