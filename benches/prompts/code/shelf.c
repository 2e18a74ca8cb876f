int find_shelf(const int *widths, int count, int book) {
    int best = -1;
    for (int i = 0; i < count; i++) {
        if (widths[i] < book) {
            continue;
        }
        if (best < 0 || widths[i] < widths[best]) {
            best = i;
        }
    }
    return best;
}

int place_book(int *widths, int count, int book) {
    int shelf = find_shelf(widths, count, book);
    if (shelf < 0) {
        return 0;
    }
    widths[shelf] -= book;
    return 1;
}
