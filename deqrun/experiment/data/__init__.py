"""The data that a run was trained on: recorded, compared, and matched where the user says so."""
