# Makes a repository with branches and a merge, clones it, and collects garbage; leaves copy/.
set -eu
git init --quiet --initial-branch=main origin
cd origin
git config user.name Tester
git config user.email tester@example.org
for number in 1 2 3 4 5; do
  echo "line $number" >> file
  git add file
  git commit --quiet --message "commit $number"
done
git checkout --quiet -b side HEAD~2
echo other > other
git add other
git commit --quiet --message "on the side"
git checkout --quiet main
git merge --quiet --no-edit side
git tag -a -m release v1
cd ..
git clone --quiet --no-local origin copy
cd copy
git gc --quiet --aggressive
git fsck --full
