"""Break the pipeline in every way that happens: kills, full disks, damaged caches, hostile files and servers.

Every case runs the real stages on a project of twelve tiny clips, and ends in one of three ways:

- survived: refused in one line, or done with the bytes of an undisturbed run;
- lost: finished work was repeated, a file of the user is gone, or a run crashed, hung or could not be continued;
- wrong: something went through with other bytes than those of an undisturbed run, or out of its folder.
"""
