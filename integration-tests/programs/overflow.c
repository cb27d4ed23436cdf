/* Reads one past the end of an array if it is given an argument. */
#include <stdio.h>

int main(int count, char **words) {
    volatile int numbers[4] = {1, 2, 3, 42};
    (void)words;
    printf("%d\n", numbers[count + 2]);
    return 0;
}
