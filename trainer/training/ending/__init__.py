"""The end of a run or of an attempt: who asks for it, what is still done, and how it is judged."""
