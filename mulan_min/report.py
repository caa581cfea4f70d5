"""Results as plain-text tables: each value has its interval and its chance level beside it."""

# {key in a task's result: heading in the table}. PR-AUC of tagging and mAP of retrieval are both mean average precision.
METRICS = {
    "roc_auc": "ROC-AUC",
    "average_precision": "PR-AUC (mAP)",
    "zero_shot_roc_auc": "zero-shot ROC-AUC",
    "zero_shot_average_precision": "zero-shot PR-AUC",
    "recall_at_1": "recall@1",
    "recall_at_10": "recall@10",
    "median_rank": "median rank",
    "accuracy": "accuracy",
}


def format_table(rows, columns):
    """Rows of cells under the headings `columns` -> one string. The first two columns are aligned left, the others right."""
    cells = [[str(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    cells.insert(1, ["-" * width for width in widths])
    lines = ("  ".join(cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def results_table(sets):
    """The `sets` of a task's result (see `tasks`) -> a table with one line per metric: set, metric, value, interval, chance."""
    rows = []
    for name, content in sets.items():
        for key in (key for key in METRICS if key in content):
            numbers = content[key]["value"], *content[key]["interval"], content[key]["chance"]
            value, low, high, chance = (f"{number:.{1 if key == 'median_rank' else 3}f}" for number in numbers)
            rows.append([name, METRICS[key], value, f"{low} - {high}", chance])
            name = ""  # only the first line of a set shows its name
    return format_table(rows, ["set", "metric", "value", "95 % interval", "chance"])
