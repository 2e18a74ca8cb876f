def windows(values, size):
    result = []
    for i in range(len(values) - size + 1):
        window = values[i:i + size]
        total = 0
        for value in window:
            total += value
        result.append(total / size)
    return result

print(windows([1, 2, 3, 4, 5, 6], 3))
