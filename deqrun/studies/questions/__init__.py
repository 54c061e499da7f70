"""One module for each question. NAME.py holds `QUESTION`; configs/study/NAME.yaml says which runs it is asked of."""
