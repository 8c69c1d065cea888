/*
 * The client of both file systems: open, one read and close of a file, COUNT times.
 *
 * Usage: reader PATH COUNT
 * Writes the duration of each round in nanoseconds, one a line, to stdout.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static long long now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: %s PATH COUNT\n", argv[0]);
        return 2;
    }
    const int count = atoi(argv[2]);
    long long *durations = calloc(count > 0 ? (size_t)count : 1, sizeof(*durations));
    if (durations == NULL)
        return 1;
    for (int i = 0; i < count; i++) {
        char buffer[4096];
        const long long begun = now_ns();
        const int fd = open(argv[1], O_RDONLY);
        if (fd < 0 || read(fd, buffer, sizeof(buffer)) <= 0) {
            perror(argv[1]);
            return 1;
        }
        close(fd);
        durations[i] = now_ns() - begun;
    }
    for (int i = 0; i < count; i++)
        printf("%lld\n", durations[i]);
    free(durations);
    return 0;
}
