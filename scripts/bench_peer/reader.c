/*
 * The client of both file systems: open, one read and close of a file, COUNT times.
 *
 * Usage: reader PATH COUNT
 * Writes how long open, read and close took, in nanoseconds, one line for each round, to stdout.
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
    long long (*took)[3] = calloc(count > 0 ? (size_t)count : 1, sizeof(*took));
    if (took == NULL)
        return 1;
    for (int i = 0; i < count; i++) {
        char buffer[4096];
        const long long begun = now_ns();
        const int fd = open(argv[1], O_RDONLY);
        const long long opened = now_ns();
        const ssize_t length = fd < 0 ? -1 : read(fd, buffer, sizeof(buffer));
        const long long done = now_ns();
        if (length <= 0) {
            perror(argv[1]);
            return 1;
        }
        close(fd);
        took[i][0] = opened - begun;
        took[i][1] = done - opened;
        took[i][2] = now_ns() - done;
    }
    for (int i = 0; i < count; i++)
        printf("%lld %lld %lld\n", took[i][0], took[i][1], took[i][2]);
    free(took);
    return 0;
}
