"""The sweep: one trajectory per solver and start, from which every budget, tolerance and halting rule is read."""
