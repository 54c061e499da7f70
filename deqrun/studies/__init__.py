"""Studies: each module asks one question of finished runs; `answering` trains the runs and writes the answer.

A module NAME.py of this package holds `QUESTION`, a `deqrun.studies.answering.question.Question`, and
configs/study/NAME.yaml says which runs it is asked of.
"""
