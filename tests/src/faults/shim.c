/* Stands between a program and libc, and makes the disk slow or faulty and the wall clock wrong, as a control file says.
 *
 * Loaded by LD_PRELOAD; the control file is named by FAULTS_CONTROL and shared memory with the checker. Only syncs and
 * the wall clock are touched: writes of the program go to the kernel as they are. So that a failed sync costs what it may
 * cost in truth, a picture of each file is kept from its last good sync on, and laid over the file when a sync is to
 * fail: whatever was written since then is lost, as it is when the kernel drops pages that it could not write.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct control {
    int64_t clock_offset_ms;
    uint64_t sync_delay_us;
    uint32_t keep_pictures;
    uint32_t fail_syncs;
    uint64_t syncs;
    uint64_t failed;
    char only_below[256]; /* part of the path of files whose syncs fail */
};

#define PICTURES 4
struct picture {
    dev_t device;
    ino_t inode;
    char *bytes;
    off_t length;
    uint64_t taken;
};

static volatile struct control *control;
static struct picture pictures[PICTURES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int (*real_fsync)(int), (*real_fdatasync)(int);
static int (*real_clock_gettime)(clockid_t, struct timespec *);
static int (*real_gettimeofday)(struct timeval *, void *);

__attribute__((constructor)) static void begin(void) {
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    real_gettimeofday = dlsym(RTLD_NEXT, "gettimeofday");
    const char *path = getenv("FAULTS_CONTROL");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *shared = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (shared != MAP_FAILED) control = shared;
}

static int is_chosen(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return strstr(path, (const char *)control->only_below) != NULL;
}

static struct picture *picture_of(const struct stat *file, int make) {
    struct picture *oldest = &pictures[0];
    for (int i = 0; i < PICTURES; i++) {
        struct picture *one = &pictures[i];
        if (one->bytes && one->device == file->st_dev && one->inode == file->st_ino) return one;
        if (one->taken < oldest->taken) oldest = one;
    }
    if (!make) return NULL;
    free(oldest->bytes);
    *oldest = (struct picture){.device = file->st_dev, .inode = file->st_ino};
    return oldest;
}

static void take_picture(int fd) {
    struct stat file;
    if (fstat(fd, &file) != 0 || !S_ISREG(file.st_mode)) return;
    struct picture *one = picture_of(&file, 1);
    char *bytes = realloc(one->bytes, file.st_size ? file.st_size : 1);
    one->bytes = bytes ? bytes : one->bytes;
    one->length = bytes ? pread(fd, bytes, file.st_size, 0) : 0;
    one->taken = control->syncs;
}

static void lose_what_was_not_synced(int fd) {
    struct stat file;
    if (fstat(fd, &file) != 0) return;
    struct picture *one = picture_of(&file, 0);
    for (off_t at = 0; one && at < one->length;) {
        ssize_t wrote = pwrite(fd, one->bytes + at, one->length - at, at);
        if (wrote <= 0) break;
        at += wrote;
    }
}

static int synced(int (*real)(int), int fd) {
    if (!control) return real(fd);
    uint64_t delay_us = control->sync_delay_us;
    if (delay_us) usleep(delay_us);
    if (!control->keep_pictures && !control->fail_syncs) {
        __atomic_add_fetch(&control->syncs, 1, __ATOMIC_RELAXED);
        return real(fd);
    }
    if (!is_chosen(fd)) return real(fd);
    pthread_mutex_lock(&lock);
    int answer;
    if (control->fail_syncs) {
        lose_what_was_not_synced(fd);
        __atomic_add_fetch(&control->failed, 1, __ATOMIC_RELAXED);
        errno = EIO;
        answer = -1;
    } else {
        answer = real(fd);
        __atomic_add_fetch(&control->syncs, 1, __ATOMIC_RELAXED);
        if (answer == 0) take_picture(fd);
    }
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return answer;
}

int fsync(int fd) { return synced(real_fsync, fd); }

int fdatasync(int fd) { return synced(real_fdatasync, fd); }

static void shift(struct timespec *time) {
    int64_t offset_ms = control ? control->clock_offset_ms : 0;
    time->tv_sec += offset_ms / 1000;
    time->tv_nsec += offset_ms % 1000 * 1000000;
    if (time->tv_nsec < 0) time->tv_nsec += 1000000000, time->tv_sec--;
    if (time->tv_nsec >= 1000000000) time->tv_nsec -= 1000000000, time->tv_sec++;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int answer = real_clock_gettime(clock, time);
    if (answer == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) shift(time);
    return answer;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    int answer = real_gettimeofday(time, zone);
    if (answer == 0) {
        struct timespec precise = {time->tv_sec, time->tv_usec * 1000};
        shift(&precise);
        time->tv_sec = precise.tv_sec;
        time->tv_usec = precise.tv_nsec / 1000;
    }
    return answer;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
