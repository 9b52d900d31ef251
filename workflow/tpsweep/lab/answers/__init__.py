"""The lab's four written questions and five expectations, answered from the tables' lines alone.

Every number in a sentence is in a table. An answer that lacks a measurement names it.
"""

from tpsweep.lab.answers.expectations import Check, check_expectations
from tpsweep.lab.answers.lines import Lines, lines_of
from tpsweep.lab.answers.questions import Answer, answer_questions

__all__ = ["Answer", "Check", "Lines", "answer_questions", "check_expectations", "lines_of"]
