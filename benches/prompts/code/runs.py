def runs(values):
    result = []
    start = 0
    for i in range(1, len(values) + 1):
        if i == len(values) or values[i] != values[start]:
            result.append((values[start], i - start))
            start = i
    return result

print(runs([1, 1, 2, 3, 3, 3]))
