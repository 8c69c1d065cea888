/*
 * What the same file tree costs in C: a file system on libfuse 2's high-level API that serves one
 * constant in a few places, each as deep or as flat as the path says.
 *
 * It answers as nfio answers: st_size 1000, direct_io, no flush, libfuse's own thread pool.
 * Usage: constant MOUNTPOINT -f -o default_permissions
 */
#define FUSE_USE_VERSION 26

#include <errno.h>
#include <fuse.h>
#include <string.h>

static const char CONSTANT[] = "1234567890\n";

/* Every directory and file there is. The deep one has nfio's own depth. */
static const char *const DIRECTORIES[] = {
    "/", "/nf-types", "/nf-types/web", "/nf-types/web/www", "/nf-types/web/www/stats",
};
static const char *const FILES[] = {"/constant", "/nf-types/web/www/stats/rx_bytes"};

static int is_one_of(const char *path, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(path, names[i]) == 0)
            return 1;
    return 0;
}

#define IS_ONE_OF(path, names) is_one_of(path, names, sizeof(names) / sizeof((names)[0]))

static int peer_getattr(const char *path, struct stat *st)
{
    memset(st, 0, sizeof(*st));
    if (IS_ONE_OF(path, DIRECTORIES)) {
        st->st_mode = S_IFDIR | 0755;
        st->st_nlink = 2;
        return 0;
    }
    if (!IS_ONE_OF(path, FILES))
        return -ENOENT;
    st->st_mode = S_IFREG | 0444;
    st->st_nlink = 1;
    st->st_size = 1000;
    return 0;
}

static int peer_open(const char *path, struct fuse_file_info *fi)
{
    if (!IS_ONE_OF(path, FILES))
        return -ENOENT;
    if ((fi->flags & O_ACCMODE) != O_RDONLY)
        return -EACCES;
    fi->direct_io = 1;
    return 0;
}

static int peer_read(const char *path, char *buffer, size_t size, off_t offset, struct fuse_file_info *fi)
{
    const size_t length = sizeof(CONSTANT) - 1;

    (void)path;
    (void)fi;
    if ((size_t)offset >= length)
        return 0;
    if (size > length - (size_t)offset)
        size = length - (size_t)offset;
    memcpy(buffer, CONSTANT + offset, size);
    return (int)size;
}

static const struct fuse_operations operations = {
    .getattr = peer_getattr,
    .open = peer_open,
    .read = peer_read,
};

int main(int argc, char **argv)
{
    return fuse_main(argc, argv, &operations, NULL);
}
