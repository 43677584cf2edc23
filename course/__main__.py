"""`python -m course`: turn an unsupported Python away with a sentence, then hand over to course.commands.

This file and course/supported.py are the only ones that an old Python reads, so they keep to syntax it can parse.
"""
import sys

from course.supported import python_trouble


def main():
    trouble = python_trouble(sys.version_info, sys.implementation.name if sys.version_info >= (3, 3) else "cpython")
    if trouble:
        sys.exit("course: " + trouble)
    from course.commands import main

    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    main()
