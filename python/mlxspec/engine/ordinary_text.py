"""Some text of the kinds that models are asked for, to measure vocabularies and drafts on."""

from typing import Final

PROSE: Final = """\
The ferry leaves at half past six, when the fog still lies on the water. Most of the people on it \
work in the town across the bay: teachers, two nurses, a man who repairs clocks. They know each \
other by sight and seldom talk before the second cup of coffee. In winter the crossing takes ten \
minutes longer, because the captain keeps away from the sandbank that nobody has mapped since the \
great storm. "You can hear it before you see it," he says, and it is true: the waves break there \
with another sound.
"""

EXPLANATION: Final = """\
To choose between the two plans, compare what each of them costs over 3 years:

1. **Basic**: $12.50 a month, so 36 x 12.50 = $450 in all.
2. **Premium**: $390 once, and $2 a month for updates, which comes to $462.

The basic plan is cheaper by $12, but only if you do not need support. However, if you expect to \
call more than once a year, the premium plan is the better choice, since each call costs $25.
"""

CODE: Final = '''\
def moving_average(values, size):
    """Averages of each `size` neighbouring values."""
    if size < 1:
        raise ValueError(f"size must be at least 1, not {size}")
    total = sum(values[:size])
    averages = [total / size]
    for index in range(size, len(values)):
        total += values[index] - values[index - size]
        averages.append(total / size)
    return averages
'''

ORDINARY_TEXTS: Final = (PROSE, EXPLANATION, CODE)
ORDINARY_TEXT: Final = "\n".join(ORDINARY_TEXTS)
