"""A long run under faults: nothing grows, and every tag is right at the end."""
